import logging
import sys
import threading
import types
from pathlib import Path
from typing import Any, ClassVar

import cloudpickle
import pytest
from pydantic import ConfigDict

from asyncdistil.errors import GraphError, ParameterError, StepError
from asyncdistil.graph.plan import StepPlan
from asyncdistil.mixins import HasRuntimeParameters, RuntimeParameter
from asyncdistil.pipeline import (
    Pipeline,
    PreparedRun,
    RunOptions,
    build_plan,
    routing_batch_function,
    sample_n_steps,
)
from asyncdistil.steps.generator import GeneratorStep
from asyncdistil.steps.global_step import GlobalStep
from asyncdistil.steps.load_dicts import LoadDataFromDicts
from asyncdistil.steps.resources import StepResources
from asyncdistil.steps.step import Step
from asyncdistil.typing import GeneratorStepOutput, StepInput, StepOutput

ROWS = [{"n": number} for number in range(10)]


class Settings(HasRuntimeParameters):
    model_config = ConfigDict(validate_assignment=True)

    factor: RuntimeParameter[int] = 2
    options: RuntimeParameter[dict[str, Any]] = {}


class Times(Step):
    settings: Settings = Settings()
    inputs: ClassVar[list[str]] = ["n"]  # type: ignore[misc]
    outputs: ClassVar[list[str]] = ["times"]  # type: ignore[misc]

    def process(self, inputs: StepInput) -> StepOutput:
        yield [row | {"times": row["n"] * (self.settings.factor or 1)} for row in inputs]


class Gather(GlobalStep):
    def process(self, inputs: StepInput) -> StepOutput:
        yield inputs


class Join(Step):
    def process(self, *inputs: StepInput) -> StepOutput:
        yield inputs[0]


class Needy(Times):
    token: RuntimeParameter[str]


class Clock(GeneratorStep):
    def process(self, offset: int = 0) -> GeneratorStepOutput:
        yield [{"n": 1}], True


def chain(name: str = "chain", data: list[dict[str, Any]] = ROWS, **double: Any) -> Pipeline:
    with Pipeline(name) as pipeline:
        LoadDataFromDicts(name="load", data=data) >> Times(name="times", **double)
    return pipeline


def prepared(pipeline: Pipeline, **options: Any) -> PreparedRun:
    return build_plan(pipeline, RunOptions(**options))


def steps_of(pipeline: Pipeline, **options: Any) -> dict[str, StepPlan]:
    return {step.name: step for step in prepared(pipeline, **options).plan.steps}


def rebuilt(plan: StepPlan) -> Any:
    return cloudpickle.loads(plan.payload)


# --- identity -----------------------------------------------------------------------------------


def test_the_same_pipeline_declared_again_has_the_same_names_throughout() -> None:
    first, second = prepared(chain()), prepared(chain())
    assert first.complete_key == second.complete_key
    assert first.aggregated_signature == second.aggregated_signature
    assert [s.lineage for s in first.plan.steps] == [s.lineage for s in second.plan.steps]
    assert first.hit_allowed


def test_the_signatures_of_a_pipeline_are_those_of_its_run() -> None:
    pipeline = chain()
    run = prepared(pipeline)
    assert run.signature == pipeline.signature == chain().signature
    assert run.aggregated_signature == pipeline.aggregated_steps_signature
    assert len(run.signature) == len(run.aggregated_signature) == 32


def test_a_parameter_changes_the_step_and_what_is_below_and_nothing_above() -> None:
    def three(factor: int) -> dict[str, StepPlan]:
        with Pipeline("three") as pipeline:
            load = LoadDataFromDicts(name="load", data=ROWS)
            load >> Times(name="times", settings=Settings(factor=factor)) >> Gather(name="gather")
        return steps_of(pipeline)

    old, new = three(2), three(3)
    same = {name: old[name].lineage == new[name].lineage for name in old}
    assert same == {"load": True, "times": False, "gather": False}


def test_data_is_in_the_complete_key_and_in_no_lineage() -> None:
    old, new = prepared(chain()), prepared(chain(data=[*ROWS, {"n": 99}]))
    assert old.complete_key != new.complete_key
    assert old.data_identities != new.data_identities
    assert [s.lineage for s in old.plan.steps] == [s.lineage for s in new.plan.steps]


def test_a_reading_policy_changes_the_complete_key_and_no_lineage() -> None:
    old, new = prepared(chain()), prepared(chain(on_error="skip"))
    assert old.complete_key != new.complete_key
    assert [s.lineage for s in old.plan.steps] == [s.lineage for s in new.plan.steps]
    assert (old.plan.leaf_policies, new.plan.leaf_policies) == (("null",), ("skip",))


def test_operational_settings_change_no_key() -> None:
    quiet = prepared(chain())
    loud = prepared(
        chain(resources=StepResources(replicas=3), max_failures=7),
        load_groups="sequential_step_execution",
        sync_mode="process",
    )
    assert quiet.complete_key == loud.complete_key
    assert [step.stage for step in loud.plan.steps] == [0, 1]
    assert loud.plan.steps[1].replicas == 3


def test_the_order_of_ports_is_part_of_a_join() -> None:
    def join(*names: str) -> bytes:
        with Pipeline("join") as pipeline:
            steps = {n: LoadDataFromDicts(name=n, data=ROWS) for n in ("a", "b")}
            [steps[name] for name in names] >> Join(name="join")
        return steps_of(pipeline)["join"].lineage

    assert join("a", "b") != join("b", "a")


def test_a_generator_that_does_not_name_its_data_forbids_a_complete_hit() -> None:
    with Pipeline("clock") as pipeline:
        Clock(name="clock")
    run = prepared(pipeline)
    assert not run.hit_allowed
    assert run.data_identities == {"clock": None}
    assert run.plan.steps[0].data_identity is None


def test_a_data_identity_of_any_length_becomes_a_digest() -> None:
    class Versioned(Clock):
        def data_identity(self) -> bytes:
            return b"version 7 of the table"

    with Pipeline("versioned") as pipeline:
        Versioned(name="load")
    assert len(prepared(pipeline).plan.steps[0].data_identity or b"") == 16


# --- what may be reused -------------------------------------------------------------------------


def test_use_cache_off_on_a_step_reaches_everything_below_it_and_nothing_else() -> None:
    with Pipeline("branches") as pipeline:
        load = LoadDataFromDicts(name="load", data=ROWS)
        fresh = Times(name="fresh", use_cache=False)
        load >> [fresh, Times(name="beside")]
        fresh >> Gather(name="below")
    steps = steps_of(pipeline)
    reuse = {name: step.reuse for name, step in steps.items()}
    assert reuse == {"load": "any", "fresh": "own_run", "beside": "any", "below": "own_run"}
    assert not prepared(pipeline).hit_allowed
    # The worker reads the same decision off the step, for the memo.
    assert {name: rebuilt(step).use_cache for name, step in steps.items()} == {
        "load": True, "fresh": False, "beside": True, "below": False,
    }  # fmt: skip
    assert pipeline["below"].use_cache


def test_use_cache_off_for_a_run_reuses_only_what_the_run_itself_wrote() -> None:
    run = prepared(chain(), use_cache=False)
    assert {step.reuse for step in run.plan.steps} == {"own_run"}
    assert not run.hit_allowed
    assert run.plan.options != prepared(chain()).plan.options


def test_an_uncacheable_step_reuses_nothing_and_the_cause_is_told() -> None:
    lock = threading.Lock()

    class Locked(Times):
        def load(self) -> None:
            assert lock is not None

    with Pipeline("locked") as pipeline:
        LoadDataFromDicts(name="load", data=ROWS) >> Locked(name="locked") >> Gather(name="below")
    first, second = prepared(pipeline), prepared(pipeline)
    assert not first.hit_allowed
    assert any("'locked'" in warning and "lock" in warning for warning in first.warnings)
    assert [named.reuse for named in first._steps.values()] == ["any", "never", "any"]
    # Steps below compare content, so they keep their names and reuse what comes out equal.
    names = [[named.lineage for named in run._steps.values()] for run in (first, second)]
    assert names[0] == names[1]
    # The run is still recognised as the same one, so the cacheable steps of it are taken up.
    assert first.aggregated_signature == second.aggregated_signature


# --- isolation ----------------------------------------------------------------------------------


def test_parameters_of_a_plan_leave_the_steps_alone_however_deep() -> None:
    pipeline = chain(settings=Settings(factor=2, options={"a": 1}))
    values = {"settings": {"factor": 5, "options": {"a": 2}}}
    step = rebuilt(steps_of(pipeline, parameters={"times": values})["times"])
    assert (step.settings.factor, step.settings.options) == (5, {"a": 2})
    mine = pipeline["times"].settings  # type: ignore[attr-defined]
    assert (mine.factor, mine.options) == (2, {"a": 1})


def test_parameters_that_are_set_on_the_pipeline_stay_set() -> None:
    pipeline = chain()
    pipeline.set_runtime_parameters({"times": {"settings": {"factor": 5}}})
    assert rebuilt(steps_of(pipeline)["times"]).settings.factor == 5


def test_a_missing_parameter_is_answered_with_the_call_to_write() -> None:
    with Pipeline("needy") as pipeline:
        LoadDataFromDicts(name="load", data=ROWS) >> Needy(name="needy")
    with pytest.raises(ParameterError, match=r"run\(parameters=\{'needy': \{'token': \.\.\.\}\}\)"):
        prepared(pipeline)
    step = rebuilt(steps_of(pipeline, parameters={"needy": {"token": "t"}})["needy"])
    assert step.token == "t"


@pytest.mark.parametrize(
    ("parameters", "near"),
    [({"tims": {"a": 1}}, "times"), ({"times": {"setings": {}}}, "settings")],
)
def test_unknown_names_among_the_parameters_are_refused_with_the_closest_known(
    parameters: dict[str, Any], near: str
) -> None:
    with pytest.raises(ParameterError, match=f"did you mean '{near}'"):
        prepared(chain(), parameters=parameters)


def test_a_wrong_parameter_is_refused_by_its_path() -> None:
    parameters = {"times": {"settings": {"factor": "many"}}}
    with pytest.raises(ParameterError, match=r"times\.settings\.factor"):
        prepared(chain(), parameters=parameters)
    with pytest.raises(ParameterError, match="must be a dict"):
        prepared(chain(), parameters={"times": 3})


def test_runtime_parameters_are_described_step_by_step() -> None:
    info = chain().get_runtime_parameters_info()
    assert list(info) == ["load", "times"]
    nested = next(entry for entry in info["times"] if entry["name"] == "settings")
    assert [entry["name"] for entry in nested["runtime_parameters_info"]] == ["factor", "options"]


def test_a_dry_run_shortens_copies_and_is_logged_under_a_name_no_pipeline_can_have() -> None:
    pipeline = chain()
    run = prepared(pipeline, dry_rows=3)
    assert run.name != pipeline.name
    with pytest.raises(ParameterError):
        Pipeline(run.name)
    assert run.plan.dry_rows == 3
    assert {step.reuse for step in run.plan.steps} == {"own_run"}
    assert not run.hit_allowed
    assert rebuilt(run.plan.steps[0]).batch_size == 3
    assert pipeline["load"].batch_size == 50  # type: ignore[attr-defined]
    assert all(rebuilt(step).use_cache for step in run.plan.steps), "the memo serves dry runs"


# --- payloads -----------------------------------------------------------------------------------


def test_a_step_that_cannot_be_pickled_is_named_and_nothing_stays_registered() -> None:
    class Holder(Times):
        thing: Any = None

    with Pipeline("holder") as pipeline:
        LoadDataFromDicts(name="load", data=ROWS) >> Holder(name="holder", thing=threading.Lock())
    before = cloudpickle.list_registry_pickle_by_value()
    run = prepared(pipeline)
    with pytest.raises(StepError, match=r"step 'holder' cannot travel.*`load\(\)`"):
        _ = run.plan
    assert cloudpickle.list_registry_pickle_by_value() == before


def test_user_modules_travel_by_value_and_are_forgotten_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (
        "from asyncdistil.steps.step import Step\n"
        "from asyncdistil.typing import StepInput, StepOutput\n"
        "def grown(row):\n    return row | {'grown': True}\n"
        "class Grow(Step):\n"
        "    def process(self, inputs: StepInput) -> StepOutput:\n"
        "        yield [grown(row) for row in inputs]\n"
    )
    (tmp_path / "grow_steps.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    module: types.ModuleType = __import__("grow_steps")
    with Pipeline("grow") as pipeline:
        LoadDataFromDicts(name="load", data=ROWS) >> module.Grow(name="grow")
    payload = steps_of(pipeline)["grow"].payload
    assert "grow_steps" not in cloudpickle.list_registry_pickle_by_value()
    # A worker that could not import the module at all still runs the step.
    monkeypatch.delitem(sys.modules, "grow_steps")
    (tmp_path / "grow_steps.py").unlink()
    assert next(cloudpickle.loads(payload).process([{}])) == [{"grown": True}]


def test_data_of_any_size_travels_with_its_step() -> None:
    run = prepared(chain(data=[{"n": 1, "blob": bytes(70 * 2**20)}]))
    assert len(run.plan.steps[0].payload) > 70 * 2**20


def test_a_list_of_models_is_copied_model_by_model() -> None:
    class Several(Times):
        many: list[Settings] = []

    with Pipeline("several") as pipeline:
        load = LoadDataFromDicts(name="load", data=ROWS)
        load >> Several(name="several", many=[Settings(), Settings()])
    parameters = {"several": {"many": {"1": {"factor": 9}}}}
    step = rebuilt(steps_of(pipeline, parameters=parameters)["several"])
    assert [each.factor for each in step.many] == [2, 9]
    assert [each.factor for each in pipeline["several"].many] == [2, 2]  # type: ignore[attr-defined]


def test_a_worker_never_gets_the_pipeline() -> None:
    assert all(rebuilt(step).pipeline is None for step in prepared(chain()).plan.steps)


# --- shape of the plan --------------------------------------------------------------------------


def test_the_plan_says_what_the_steps_declare() -> None:
    with Pipeline("shape") as pipeline:
        load = LoadDataFromDicts(name="load", data=ROWS, batch_size=4)
        times = Times(
            name="times",
            input_batch_size=7,
            output_mappings={"times": "product"},
            on_error="skip",
            batch_deadline_seconds=9,
        )
        resources = StepResources(replicas=4, memory=10**9)
        load >> times >> Gather(name="gather", resources=resources)
    run = prepared(pipeline, max_failures=5)
    first, second, third = run.plan.steps
    assert [step.kind for step in run.plan.steps] == ["generator", "batch", "global"]
    assert (first.input_batch_size, first.resumable, first.edges) == (4, True, ())
    assert (second.input_batch_size, second.outputs, second.max_failures) == (7, ("product",), 5)
    assert (second.edges[0].upstream, second.edges[0].on_error) == ("load", "raise")
    assert (third.edges[0].on_error, third.replicas, third.memory_bytes) == ("skip", 1, 10**9)
    assert run.plan.leaves == ("gather",)
    assert run.plan.leaf_policies == ("raise",)
    assert any("'gather' asks for 4 replicas and gets one" in text for text in run.warnings)


def test_a_router_is_planned_between_its_source_and_the_routed_steps() -> None:
    @routing_batch_function()
    def first(steps: list[str]) -> list[str]:
        return steps[:1]

    with Pipeline("routed") as pipeline:
        load = LoadDataFromDicts(name="load", data=ROWS, batch_size=5)
        a, b, aside = Times(name="a"), Times(name="b"), Gather(name="aside")
        load >> first >> [a, b] >> Join(name="join")
        load >> aside
    run = prepared(pipeline)
    (router,) = run.plan.routers
    assert (router.source, router.batch_size, router.successors) == ("load", 5, ("a", "b"))
    function, names = cloudpickle.loads(router.payload)
    assert (function.choose(names), names) == (["a"], ("a", "b"))
    steps = {step.name: step for step in run.plan.steps}
    assert [steps[n].edges[0].routed for n in ("a", "b", "aside")] == [True, True, False]
    assert steps["join"].converges == "load"


def test_another_router_changes_the_complete_key_but_computes_no_routed_step_anew() -> None:
    def routed(seed: int) -> PreparedRun:
        with Pipeline("routed") as pipeline:
            load = LoadDataFromDicts(name="load", data=ROWS)
            load >> sample_n_steps(1, seed=seed) >> [Times(name="a"), Times(name="b")]
        return prepared(pipeline)

    old, new = routed(0), routed(1)
    assert old.complete_key != new.complete_key
    assert old.plan.routers[0].lineage != new.plan.routers[0].lineage
    assert [s.lineage for s in old.plan.steps] == [s.lineage for s in new.plan.steps]


def test_metadata_that_is_not_wanted_is_left_out_of_the_dataset_only() -> None:
    def named(*, enable_metadata: bool) -> PreparedRun:
        with Pipeline("metadata", enable_metadata=enable_metadata) as pipeline:
            LoadDataFromDicts(name="load", data=ROWS)
        return prepared(pipeline)

    kept, dropped = named(enable_metadata=True), named(enable_metadata=False)
    assert kept.drop_columns == ()
    assert dropped.drop_columns == ("distilabel_metadata",)
    assert kept.complete_key != dropped.complete_key
    assert kept.plan.steps[0].lineage == dropped.plan.steps[0].lineage


def test_a_pipeline_planned_while_its_block_is_open_takes_no_step_in() -> None:
    with Pipeline("open") as pipeline:
        LoadDataFromDicts(name="load", data=ROWS)
        prepared(pipeline)
    assert list(pipeline) == ["load"]


def test_handlers_are_left_to_logging_and_the_caller_is_told() -> None:
    run = prepared(chain(), logging_handlers=[logging.NullHandler()])
    assert any("logging_handlers is not used" in warning for warning in run.warnings)


# --- data given to a run ------------------------------------------------------------------------


def unfed() -> Pipeline:
    with Pipeline("unfed") as pipeline:
        Times(name="times") >> Gather(name="gather")
        Gather(name="beside")
    return pipeline


def test_a_dataset_feeds_every_first_step_of_this_run_only() -> None:
    pipeline = unfed()
    run = prepared(pipeline, dataset=ROWS, dataset_batch_size=4)
    loader, *others = run.plan.steps
    assert (loader.kind, loader.input_batch_size) == ("generator", 4)
    edges = {step.name: [edge.upstream for edge in step.edges] for step in others}
    assert edges == {"times": [loader.name], "gather": ["times"], "beside": [loader.name]}
    assert list(pipeline) == ["times", "gather", "beside"]
    assert prepared(pipeline, dataset=ROWS).complete_key == run.complete_key
    assert prepared(pipeline, dataset=ROWS[:3]).complete_key != run.complete_key
    assert run.name == "unfed"


def test_a_dataset_given_inside_the_block_adds_no_step_to_the_pipeline() -> None:
    with Pipeline("open") as pipeline:
        Times(name="load_data_from_dicts_0")
        run = prepared(pipeline, dataset=ROWS)
    assert list(pipeline) == ["load_data_from_dicts_0"]
    assert [step.name for step in run.plan.steps] == [
        "load_data_from_dicts_1",
        "load_data_from_dicts_0",
    ]


def test_a_dataset_for_a_pipeline_with_a_generator_is_refused_by_its_name() -> None:
    with pytest.raises(ParameterError, match="'load' is a generator and brings rows too"):
        prepared(chain(), dataset=ROWS)


def test_columns_of_the_dataset_are_checked_like_those_of_a_loader() -> None:
    with pytest.raises(GraphError, match="'times' needs column 'n'"):
        prepared(unfed(), dataset=[{"m": 1}])

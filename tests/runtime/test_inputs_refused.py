"""Input that cannot work: one error that names step and remedy, and nothing is left behind."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.distiset import Distiset
from asyncdistil.errors import (
    DataError,
    GraphError,
    ParameterError,
    StepError,
    StorageError,
    StoreLocked,
    UnencodableValue,
    UserError,
)
from asyncdistil.mixins import RuntimeParameter
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import GeneratorStep, GlobalStep, LoadDataFromDicts, Step, StepInput
from asyncdistil.typing import GeneratorStepOutput, StepOutput

TEN = [{"n": n} for n in range(10)]


class Plus(Step):
    add: RuntimeParameter[int] = 1

    @property
    def inputs(self) -> list[str]:
        return ["n"]

    @property
    def outputs(self) -> list[str]:
        return ["sum"]

    def process(self, inputs: StepInput) -> StepOutput:
        yield [row | {"sum": row["n"] + (self.add or 0)} for row in inputs]


class Reads(Plus):
    column: str

    @property
    def inputs(self) -> list[str]:
        return [self.column]


class Needs(Plus):
    key: RuntimeParameter[str]


class Gives(Step):
    """Gives what it is told to instead of rows with the column that it declares."""

    what: str

    @property
    def outputs(self) -> list[str]:
        return ["declared"]

    def process(self, inputs: StepInput) -> StepOutput:
        match self.what:
            case "another column":
                yield [row | {"undeclared": 1} for row in inputs]
            case "no list":
                yield {"declared": 1}  # type: ignore[misc]
            case "no rows":
                yield [1 for _ in inputs]  # type: ignore[misc]
            case "fewer":
                yield [row | {"declared": 1} for row in inputs[1:]]
            case "an object":
                yield [row | {"declared": object()} for row in inputs]


class GivesAll(GlobalStep):
    def process(self, inputs: StepInput) -> StepOutput:
        yield "rows"  # type: ignore[misc]


class GivesNoPair(GeneratorStep):
    @property
    def outputs(self) -> list[str]:
        return ["n"]

    def process(self, offset: int = 0) -> GeneratorStepOutput:
        yield [{"n": 1}]  # type: ignore[misc]


def chain(*steps: Step, cache: Path, data: list[dict[str, Any]] | None = None) -> Pipeline:
    """Steps that were made outside of a pipeline, one after the other behind a loader."""
    with Pipeline("refused", cache_dir=cache) as pipeline:
        source: Any = LoadDataFromDicts(name="load", data=TEN if data is None else data)
        for step in steps:
            step.pipeline = pipeline
            pipeline.add_step(step)
            source = source >> step
    return pipeline


def cycle(cache: Path) -> None:
    pipeline = chain(Plus(name="first"), Plus(name="second"), cache=cache)
    pipeline["second"] >> pipeline["first"]


def missing_column(cache: Path) -> None:
    chain(Reads(name="reads", column="text"), cache=cache).run()


def mistyped_column(cache: Path) -> None:
    chain(Plus(name="plus"), Reads(name="reads", column="sums"), cache=cache).run()


def wrong_type(cache: Path) -> None:
    chain(Plus(name="plus"), cache=cache).run(parameters={"plus": {"add": "many"}})


def wrong_type_of_batch_size(cache: Path) -> None:
    chain(Plus(name="plus"), cache=cache).run(parameters={"plus": {"input_batch_size": 0}})


def missing_parameter(cache: Path) -> None:
    chain(Needs(name="needs"), cache=cache).run()


def empty_data(cache: Path) -> None:
    chain(Plus(name="plus"), cache=cache, data=[]).run()


def bare(cache: Path) -> Pipeline:
    with Pipeline("refused", cache_dir=cache) as pipeline:
        Plus(name="plus")
    return pipeline


def empty_dataset(cache: Path) -> None:
    bare(cache).run(dataset=[])


def data_of_no_rows(cache: Path) -> None:
    bare(cache).run(dataset=[{"n": 1}, 2])


def data_of_no_kind(cache: Path) -> None:
    bare(cache).run(dataset=7)


def dataset_twice(cache: Path) -> None:
    chain(Plus(name="plus"), cache=cache).run(dataset=TEN)


def unknown_option(cache: Path) -> None:
    chain(Plus(name="plus"), cache=cache).run(sync_mode="durabel")


def no_generator(cache: Path) -> None:
    bare(cache).run()


def no_steps(cache: Path) -> None:
    Pipeline("refused", cache_dir=cache).run()


REFUSED_BEFORE: list[tuple[Callable[[Path], None], type[Exception], str]] = [
    (cycle, GraphError, r"second.*first"),
    (missing_column, GraphError, r"'reads' needs column 'text'.*input_mappings"),
    (mistyped_column, GraphError, r"'reads' needs column 'sums'.*'sum'"),
    (wrong_type, ParameterError, r"plus.*add.*many"),
    (wrong_type_of_batch_size, ParameterError, r"plus.*input_batch_size"),
    (missing_parameter, ParameterError, r"'needs' needs a value for key: write .*parameters"),
    (empty_data, DataError, r"'load' was given no rows: give it data="),
    (empty_dataset, DataError, r"list of rows is empty: give at least one row"),
    (data_of_no_rows, DataError, r"row 1 of the list is a int: give rows as dicts"),
    (data_of_no_kind, DataError, r"dataset .*int.*a list of dicts will do too"),
    (dataset_twice, ParameterError, r"'load' is a generator.*leave out `dataset`"),
    (unknown_option, ParameterError, r"'durabel' is not known: use 'durable'"),
    (no_generator, GraphError, r"'plus'.*dataset|'plus'.*generator"),
    (no_steps, GraphError, r"no step"),
]


def _name(value: Any) -> str:
    return getattr(value, "__name__", "")


@pytest.mark.parametrize(("wrong", "kind", "says"), REFUSED_BEFORE, ids=_name)
def test_what_cannot_run_is_refused_before_anything_starts(
    cache: Path, starts: Any, wrong: Callable[[Path], None], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says) as caught:
        wrong(cache)
    assert isinstance(caught.value, UserError)
    assert starts.take() == 0
    assert not cache.exists(), "nothing was written"


def _name(value: Any) -> str:
    return getattr(value, "__name__", "")


GIVEN_WRONG: list[tuple[Step, type[Exception], str]] = [
    (Gives(name="gives", what="no list"), StepError, r"'gives'.*yield.* a dict.*list of rows"),
    (Gives(name="gives", what="no rows"), StepError, r"'gives'.* an? int in place 0.*dicts"),
    (
        Gives(name="gives", what="fewer", row_wise=True),
        StepError,
        r"row-wise step 'gives' gave 0 entries for 1 rows.*None for one that is dropped",
    ),
    (Gives(name="gives", what="an object"), UnencodableValue, r"'gives'.*'declared'.*object"),
    (Gives(name="gives", what="another column"), StepError, r"'gives'.*'declared'"),
]


@pytest.mark.parametrize(
    ("step", "kind", "says"), GIVEN_WRONG, ids=lambda v: getattr(v, "what", "")
)
def test_a_step_that_breaks_its_contract_stops_the_run_and_is_told_how(
    cache: Path, step: Step, kind: type[Exception], says: str
) -> None:
    pipeline = chain(step.model_copy(), cache=cache)
    with pytest.raises(kind, match=rf"(?s){says}.*Mend it and run again"):
        pipeline.run()


def test_a_global_step_and_a_generator_that_break_their_contract_are_told_how(cache: Path) -> None:
    with pytest.raises(StepError, match=r"(?s)'all' failed.*yielded a str: yield a list of rows"):
        chain(GivesAll(name="all"), cache=cache).run()

    with Pipeline("pair", cache_dir=cache) as pipeline:
        GivesNoPair(name="source") >> Plus(name="plus")
    with pytest.raises(StepError, match=r"(?s)'source' raised.*yield a tuple of a list of dicts"):
        pipeline.run()


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"plus": {"ad": 5}}, "plus has no runtime parameter 'ad': did you mean 'add'?"),
        ({"plu": {"add": 9}}, "there is no step 'plu' to set parameters of: did you mean 'plus'?"),
    ],
)
def test_an_unknown_parameter_is_refused_with_its_neighbour(
    cache: Path, parameters: dict[str, dict[str, int]], says: str
) -> None:
    with pytest.raises(ParameterError) as refused:
        chain(Plus(name="plus"), cache=cache).run(parameters=parameters)
    assert says in str(refused.value)


@pytest.fixture
def unwritable(tmp_path: Path) -> Path:
    """A directory below a file: no user, root included, may write there."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "cache"


def test_an_unwritable_cache_directory_is_the_machines_matter(
    unwritable: Path,
) -> None:
    with pytest.raises(StorageError) as caught:
        chain(Plus(name="plus"), cache=unwritable).run()
    assert str(unwritable) in str(caught.value)
    assert "cache_dir" in str(caught.value)


HOLDER = """
import sys
from pathlib import Path
from asyncdistil.log import Store
store = Store.open(Path(sys.argv[1]), "refused")
print("held", flush=True)
sys.stdin.read()
store.close(clean=True)
"""


def test_a_locked_cache_names_its_holder_and_can_be_waited_for(
    cache: Path,
) -> None:
    command = [sys.executable, "-c", HOLDER, str(cache)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"held\n"
        pipeline = chain(Plus(name="plus"), cache=cache)
        with pytest.raises(StoreLocked, match=f"'refused'.*pid {holder.pid}.*wait") as caught:
            pipeline.run()
        assert "another name" in str(caught.value)
        other = Pipeline("other", cache_dir=cache)
        LoadDataFromDicts(name="load", data=TEN, pipeline=other)
        assert len(rows(other.run())) == 10, "another name is another lock"
        holder.stdin.close()
        assert len(rows(pipeline.run(wait_seconds=30))) == 10


def rows(distiset: Distiset) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = distiset.table("default").to_pylist()
    return found

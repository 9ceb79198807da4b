"""Whole pipelines: wiring, mappings, parameters, routing, caches, files."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from datasets import Dataset
from distilabel.pipeline import Pipeline, routing_batch_function, sample_n_steps
from distilabel.steps import (
    CombineOutputs,
    ExpandColumns,
    GroupColumns,
    KeepColumns,
    LoadDataFromDicts,
    MergeColumns,
    StepResources,
    make_generator_step,
)
from distilabel.steps.tasks import TextGeneration
from own.parts import (
    Ask,
    Both,
    Count,
    Echo,
    Keeps,
    Letters,
    Measure,
    Numbers,
    Optional,
    Poem,
    Shout,
    Slow,
    Together,
    Uneven,
)

CACHE = Path(sys.argv[1])
TOPICS = [{"topic": f"t{n}"} for n in range(7)]


def rows(distiset: Any) -> Any:
    return {name: [dict(row) for row in distiset[name]["train"]] for name in distiset}


def pipeline(name: str) -> Pipeline:
    return Pipeline(name, cache_dir=CACHE)


def fan_out_and_in() -> Any:
    with pipeline("fan") as it:
        load = LoadDataFromDicts(data=TOPICS, batch_size=3)
        asked = [
            TextGeneration(
                name=name,
                llm=Echo(prefix=name, generation_kwargs={"shout": name == "two"}),
                input_mappings={"instruction": "topic"},
                num_generations=2,
                group_generations=True,
                input_batch_size=4,
                add_raw_input=False,
            )
            for name in ("one", "two")
        ]
        group = GroupColumns(columns=["generation", "model_name"])
        expand = ExpandColumns(columns={"grouped_generation": "text"}, input_batch_size=2)
        load >> asked >> group >> expand >> Count() >> KeepColumns(columns=["topic", "text", "of"])
        asked[0] >> KeepColumns(name="beside", columns=["topic", "generation"])
    return rows(it.run())


def connect() -> Any:
    with pipeline("connect") as it:
        numbers, shout, measure = Numbers(batch_size=2), Shout(input_batch_size=3), Measure()
        together = CombineOutputs()
        numbers.connect(shout, measure)
        shout.connect(together)
        measure.connect(together)
    return rows(it.run(parameters={"shout_0": {"mark": "?"}, "measure_0": {"factor": 3}}))


def mappings() -> Any:
    with pipeline("mappings") as it:
        load = LoadDataFromDicts(
            data=[{"a": "x", "text": "hidden"}, {"a": "y", "text": "hidden"}],
            output_mappings={"a": "body"},
        )
        shout = Shout(input_mappings={"text": "body"}, output_mappings={"loud": "title"})
        load >> shout >> MergeColumns(columns=["body", "title"], output_column="both")
    return rows(it.run())


def optional_columns() -> Any:
    with pipeline("optional") as it:
        LoadDataFromDicts(data=[{"text": "a"}]) >> Optional()
    return rows(it.run())


def parameters() -> Any:
    with pipeline("parameters") as it:
        load = LoadDataFromDicts(name="load", data=TOPICS)
        ask = TextGeneration(name="ask", llm=Echo(), input_mappings={"instruction": "topic"})
        load >> ask >> KeepColumns(columns=["generation", "model_name"])
    asked = it.run(
        parameters={
            "load": {"batch_size": 2},
            "ask": {
                "input_batch_size": 3,
                "llm": {"prefix": "said", "generation_kwargs": {"shout": True, "stop": "."}},
            },
        }
    )
    return rows(asked)


def dataset_of_run() -> Any:
    with pipeline("dataset") as it:
        Shout() >> Measure()
    made = rows(it.run(dataset=[{"text": "a"}, {"text": "bc"}]))
    with pipeline("dataset 2") as it:
        Shout()
    made["dataset"] = rows(it.run(dataset=Dataset.from_dict({"text": ["d", "e"]})))
    return made


def generator_of_rows() -> Any:
    with pipeline("made") as it:
        make_generator_step([{"text": "a"}, {"text": "bc"}], batch_size=1) >> Shout()
    return rows(it.run())


def functions() -> Any:
    with pipeline("functions") as it:
        numbers = Numbers()
        numbers >> Measure(name="measure") >> Together()
        numbers >> Measure(name="beside")
    return rows(it.run())


def generator_function() -> Any:
    with pipeline("generator function") as it:
        Letters() >> Shout()
    return rows(it.run())


def uneven() -> Any:
    with pipeline("uneven") as it:
        Numbers(batch_size=2) >> Uneven(input_batch_size=2) >> Count()
    return rows(it.run())


def own_task() -> Any:
    with pipeline("own task") as it:
        load = LoadDataFromDicts(data=TOPICS)
        load >> [Ask(llm=Echo(prefix="ask"), num_generations=2), Poem(llm=Echo(prefix="poem"))]
    return rows(it.run())


def own_task_that_fails() -> Any:
    with pipeline("failing task") as it:
        load = LoadDataFromDicts(data=TOPICS)
        keep = KeepColumns(columns=["topic", "question", "model_name"])
        load >> Ask(llm=Echo(prefix="ask"), refused="t3") >> keep
    return rows(it.run())


def own_task_that_fails_twice() -> Any:
    with pipeline("failing twice") as it:
        load = LoadDataFromDicts(data=TOPICS[2:4])
        keep = KeepColumns(columns=["topic", "question"])
        load >> Ask(llm=Echo(prefix="ask"), refused="t3", num_generations=2) >> keep
    return rows(it.run())


def own_step_that_fails() -> Any:
    with pipeline("failing step") as it:
        load = LoadDataFromDicts(data=[{"text": "a"}, {"text": None}, {"text": "c"}])
        load >> Shout(input_batch_size=1)
    return rows(it.run())


def older_contract() -> Any:
    with pipeline("older") as it:
        load = LoadDataFromDicts(data=TOPICS[:2])
        load >> TextGeneration(llm=Slow(), input_mappings={"instruction": "topic"})
    return rows(it.run())


def extra_outputs_and_two_tasks() -> Any:
    with pipeline("two tasks") as it:
        load = LoadDataFromDicts(data=TOPICS[:2])
        one = TextGeneration(
            name="one",
            llm=Echo(prefix="one"),
            input_mappings={"instruction": "topic"},
            output_mappings={"generation": "first"},
        )
        two = TextGeneration(name="two", llm=Echo(), input_mappings={"instruction": "first"})
        load >> one >> two >> KeepColumns(columns=["topic", "first", "generation"])
    return rows(it.run())


@routing_batch_function()
def in_turn(steps: list[str]) -> list[str]:
    return [steps[0], steps[2]]


def routed() -> Any:
    with pipeline("routed") as it:
        load = LoadDataFromDicts(data=TOPICS[:6], batch_size=2)
        asked = [
            TextGeneration(
                name=name,
                llm=Echo(prefix=name),
                input_mappings={"instruction": "topic"},
                input_batch_size=2,
            )
            for name in ("one", "two", "three")
        ]
        group = GroupColumns(columns=["generation"], input_batch_size=2)
        load >> in_turn >> asked >> group >> KeepColumns(columns=["topic", "grouped_generation"])
    return rows(it.run())


def sampled() -> Any:
    with pipeline("sampled") as it:
        load = LoadDataFromDicts(data=TOPICS[:6], batch_size=2)
        asked = [
            TextGeneration(
                name=name,
                llm=Echo(prefix="same"),
                input_mappings={"instruction": "topic"},
                input_batch_size=2,
            )
            for name in ("one", "two", "three")
        ]
        group = GroupColumns(columns=["generation"], input_batch_size=2)
        load >> sample_n_steps(2) >> asked >> group >> KeepColumns(columns=["grouped_generation"])
    return rows(it.run())


def join_of_functions() -> Any:
    with pipeline("join") as it:
        load = LoadDataFromDicts(data=TOPICS)
        asked = [
            TextGeneration(
                name=name, llm=Echo(prefix=name), input_mappings={"instruction": "topic"}
            )
            for name in ("one", "two")
        ]
        load >> asked >> Both() >> KeepColumns(columns=["topic", "answers"])
    return rows(it.run())


def replicas() -> Any:
    with pipeline("replicas") as it:
        numbers = Numbers(up_to=12, batch_size=4)
        shout = Shout(input_batch_size=2, resources=StepResources(replicas=2))
        numbers >> shout >> Measure()
    return rows(it.run())


def through_files() -> Any:
    with pipeline("files") as it:
        Numbers(batch_size=2) >> Shout(input_batch_size=2)
    return rows(it.run(use_fs_to_pass_data=True))


def load_groups() -> Any:
    with pipeline("groups") as it:
        numbers, shout, measure = Numbers(), Shout(), Measure()
        numbers >> shout >> measure
    return {
        "stages": it.get_load_stages(load_groups=[["shout_0"]]),
        "rows": rows(it.run(load_groups=[["shout_0"]])),
    }


def one_after_another() -> Any:
    with pipeline("sequence") as it:
        Numbers() >> Shout() >> Measure()
    return rows(it.run(load_groups="sequential_step_execution"))


def dry_run() -> Any:
    with pipeline("dry") as it:
        Numbers() >> Shout()
    return rows(it.dry_run(batch_size=2))


def rerun() -> Any:
    def declared(mark: str) -> Pipeline:
        with pipeline("again") as it:
            Numbers() >> Shout(mark=mark)
        return it

    return [rows(declared(mark).run()) for mark in ("!", "!", "?")] + [
        rows(declared("!").run(use_cache=False))
    ]


def appended() -> Any:
    with pipeline("appended") as it:
        Numbers() >> Shout()
    first = rows(it.run())
    with pipeline("appended") as it:
        Numbers() >> Shout() >> Measure()
    return [first, rows(it.run())]


def names() -> Any:
    with Pipeline(cache_dir=CACHE) as it:
        one, two = Numbers(), Numbers()
        three = Shout()
        one >> three
        two >> Measure()
    return [it.name, [s.name for s in (one, two, three)]]


def runtime_parameters() -> Any:
    with pipeline("info") as it:
        load = LoadDataFromDicts(name="load", data=TOPICS)
        (
            load
            >> TextGeneration(name="ask", llm=Echo(), input_mappings={"instruction": "topic"})
            >> Measure(name="measure", input_mappings={"text": "generation"})
        )
    info = it.get_runtime_parameters_info()
    return {
        name: sorted((one["name"], one.get("optional", True)) for one in info[name])
        for name in info
    }


def saved() -> Any:
    with pipeline("saved") as it:
        LoadDataFromDicts(name="load", data=TOPICS) >> KeepColumns(columns=["topic"])
    made = {}
    for kind, read in (("json", Pipeline.from_json), ("yaml", Pipeline.from_yaml)):
        path = CACHE / f"saved.{kind}"
        it.save(path, format=kind)
        again = read(path)
        dump = again.dump()["pipeline"]
        made[kind] = [
            dump["name"],
            [s["name"] for s in dump["steps"]],
            sorted(map(str, dump["connections"])),
        ]
    return made


def datasets_on_disk() -> Any:
    from distilabel.distiset import Distiset

    with pipeline("disk") as it:
        numbers = Numbers(up_to=10)
        numbers >> Shout()
        numbers >> Keeps()
    distiset = it.run()
    distiset.save_to_disk(str(CACHE / "distiset"))
    again = Distiset.load_from_disk(str(CACHE / "distiset"))
    kept = CACHE / "distiset" / "artifacts" / "keeps_0" / "texts"
    split = Distiset({"only": Dataset.from_dict({"n": list(range(10))})})
    split = split.train_test_split(train_size=0.8, shuffle=False)
    return {
        "rows": rows(again),
        "files": sorted(p.name for p in (CACHE / "distiset").iterdir()),
        "artifacts": sorted(p.name for p in kept.iterdir()) if kept.exists() else [],
        "split": {name: list(part["n"]) for name, part in split["only"].items()},
    }


def refused() -> Any:
    """What is wrong is said before anything starts."""

    def missing_column() -> None:
        with pipeline("wrong") as it:
            LoadDataFromDicts(data=TOPICS) >> Shout()
        it.run()

    def no_generator() -> None:
        with pipeline("wrong") as it:
            Shout() >> Measure()
        it.run()

    def same_name() -> None:
        with pipeline("wrong"):
            Shout(name="x")
            Measure(name="x")

    def bad_name() -> None:
        Shout(name="a.b")

    def cycle() -> None:
        with pipeline("wrong"):
            one, two = Shout(), Measure()
            one >> two >> one

    def unknown_mapping() -> None:
        with pipeline("wrong") as it:
            Numbers() >> Shout(input_mappings={"nope": "text"})
        it.run()

    def unknown_option() -> None:
        Shout(marks="?")

    def wrong_type() -> None:
        Shout(input_batch_size="many")

    def missing_package() -> None:
        with Pipeline("wrong", cache_dir=CACHE, requirements=["no-such-package-anywhere"]) as it:
            Numbers() >> Shout()
        it.run()

    said = {}
    for attempt in (
        missing_column,
        no_generator,
        same_name,
        bad_name,
        cycle,
        unknown_mapping,
        unknown_option,
        wrong_type,
        missing_package,
    ):
        try:
            attempt()
            said[attempt.__name__] = "accepted"
        except ModuleNotFoundError:
            said[attempt.__name__] = "ModuleNotFoundError"
        except ValueError:
            said[attempt.__name__] = "ValueError"
    return said


CASES = [
    fan_out_and_in,
    connect,
    mappings,
    optional_columns,
    parameters,
    dataset_of_run,
    generator_of_rows,
    functions,
    generator_function,
    uneven,
    own_task,
    own_task_that_fails,
    own_task_that_fails_twice,
    own_step_that_fails,
    older_contract,
    extra_outputs_and_two_tasks,
    routed,
    sampled,
    join_of_functions,
    replicas,
    through_files,
    load_groups,
    one_after_another,
    dry_run,
    rerun,
    appended,
    names,
    runtime_parameters,
    saved,
    datasets_on_disk,
    refused,
]

if __name__ == "__main__":
    wanted = os.environ.get("CASES", "").split()
    made: dict[str, Any] = {}
    for one in CASES:
        if wanted and one.__name__ not in wanted:
            continue
        try:
            made[one.__name__] = one()
        except Exception as error:
            made[one.__name__] = f"{type(error).__name__}: {error}"[:500]
    Path(sys.argv[1], "made.json").write_text(json.dumps(made, default=str))

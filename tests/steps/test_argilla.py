"""Argilla steps by the real SDK, against a scripted stand-in of the server's HTTP API."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import pytest

from asyncdistil.errors import ParameterError, StepError
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import LoadDataFromDicts, PreferenceToArgilla, TextGenerationToArgilla
from asyncdistil.steps.tasks import ArgillaLabeller
from asyncdistil.testing.fake_llm import FakeLLM

rg = pytest.importorskip("argilla", reason="the extra 'argilla' is not installed")
KEY = "canary.apikey"
WHEN = {"inserted_at": "2026-01-02T03:04:05", "updated_at": "2026-01-02T03:04:05"}


class ArgillaStandIn:
    """Users, workspaces, datasets, records: as much of them as the SDK asks for."""

    def __init__(self) -> None:
        self.datasets: list[dict[str, Any]] = []
        self.parts: dict[str, list[dict[str, Any]]] = {}
        self.records: dict[str, dict[str, Any]] = {}
        self.pushes = 0
        self.refuses_records = False
        self._ids = 0

    def new_id(self) -> str:
        self._ids += 1
        return str(UUID(int=self._ids))

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        workspaces = [{"id": str(UUID(int=99)), "name": "people", **WHEN}]
        if path == "/api/v1/me":
            return 200, {"id": str(UUID(int=98)), "username": "owner", "role": "owner", **WHEN}
        if path == "/api/v1/me/workspaces":
            return 200, {"items": workspaces}
        if path.startswith("/api/v1/workspaces/"):
            return 200, workspaces[0]
        if path == "/api/v1/me/datasets":
            return 200, {"items": self.datasets}
        if path == "/api/v1/datasets" and method == "POST":
            made = {**body, "id": self.new_id(), "status": "draft", **WHEN}
            self.datasets.append(made)
            return 201, made
        found = re.fullmatch(r"/api/v1/(?:me/)?datasets/([0-9a-f-]+)(?:/(.+))?", path)
        if not found:
            return 404, {"detail": path}
        dataset = next(one for one in self.datasets if one["id"] == found[1])
        return self._of_dataset(method, dataset, found[2] or "", body)

    def _of_dataset(
        self, method: str, dataset: dict[str, Any], rest: str, body: Any
    ) -> tuple[int, Any]:
        if rest == "publish":
            dataset["status"] = "ready"
        if rest in {"", "publish"}:
            return 200, dataset
        if rest == "records/bulk":
            if self.refuses_records:
                return 422, {"detail": f"not for {KEY}"}
            self.pushes += 1
            items = []
            known = self.records.keys() & {item["external_id"] for item in body["items"]}
            for item in body["items"]:
                self.records[item["external_id"]] = item
                items.append({**item, "id": self.new_id(), **WHEN})
            return 200, {"items": items, "updated_item_ids": [self.new_id() for _ in known]}
        parts = self.parts.setdefault(f"{dataset['id']} {rest}", [])
        if method == "POST":
            parts.append({**body, "id": self.new_id(), "dataset_id": dataset["id"], **WHEN})
            return 201, parts[-1]
        return 200, {"items": parts}


@pytest.fixture
def people() -> Iterator[ArgillaStandIn]:
    stand_in = ArgillaStandIn()

    class Handler(BaseHTTPRequestHandler):
        protocol_version: ClassVar[str] = "HTTP/1.1"
        # Or each reply waits 40 ms for the acknowledgement of its first half.
        disable_nagle_algorithm: ClassVar[bool] = True

        def _serve(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if KEY not in self.headers.get("X-Argilla-Api-Key", ""):
                status, value = 401, {"detail": "who are you"}
            else:
                body = json.loads(sent) if sent else None
                status, value = stand_in.answer(self.command, self.path.split("?")[0], body)
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _serve

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    stand_in.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    yield stand_in
    server.shutdown()
    thread.join()
    server.server_close()


def connection(people: ArgillaStandIn, **fields: Any) -> dict[str, Any]:
    return {
        "dataset_name": "answers",
        "dataset_workspace": "people",
        "api_url": people.url,  # type: ignore[attr-defined]
        "api_key": KEY,
    } | fields


def pushed(step: Any, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    step.load()
    (out,) = step.process(rows)
    step.unload()
    return out


TEXTS = [
    {"instruction": "add 1 and 1", "generation": "2"},
    {"instruction": "add 1 and 2", "generation": ["3", "4", "3", None]},
    {"instruction": "add 1 and 3", "generation": None},
]


def test_every_generation_is_a_record_of_a_dataset_that_is_made_for_it(
    people: ArgillaStandIn,
) -> None:
    step = TextGenerationToArgilla(**connection(people))
    assert pushed(step, [dict(row) for row in TEXTS]) == TEXTS
    (dataset,) = people.datasets
    assert (dataset["name"], dataset["status"]) == ("answers", "ready")
    fields = [one["name"] for one in people.parts[f"{dataset['id']} fields"]]
    assert fields == ["id", "instruction", "generation"]
    (question,) = people.parts[f"{dataset['id']} questions"]
    assert [option["value"] for option in question["settings"]["options"]] == ["bad", "good"]
    written = [
        (record["fields"]["instruction"], record["fields"]["generation"])
        for record in people.records.values()
    ]
    assert written == [("add 1 and 1", "2"), ("add 1 and 2", "3"), ("add 1 and 2", "4")]


def test_what_is_pushed_twice_is_one_record(people: ArgillaStandIn) -> None:
    for _ in range(2):
        pushed(TextGenerationToArgilla(**connection(people)), TEXTS)
    assert people.pushes == 2
    assert len(people.datasets) == 1
    assert len(people.records) == 3


def test_columns_keep_the_names_that_people_know(people: ArgillaStandIn) -> None:
    step = TextGenerationToArgilla(
        **connection(people), input_mappings={"instruction": "question", "generation": "answer"}
    )
    step.load()
    list(step.apply([{"question": "why", "answer": "because"}]))
    (record,) = people.records.values()
    assert set(record["fields"]) == {"id", "question", "answer"}


def test_ratings_and_rationales_become_suggestions(people: ArgillaStandIn) -> None:
    step = PreferenceToArgilla(num_generations=3, **connection(people))
    rows = [
        {
            "instruction": "why",
            "generations": ["a", "b"],
            "ratings": [5, 9],
            "rationales": ["good", None],
        },
        {"instruction": "how", "generations": ["c", "d", "e", "one too many"]},
        {"instruction": "who", "generations": None},
    ]
    pushed(step, rows)
    first, second = people.records.values()
    assert {s["value"] for s in first["suggestions"]} == {5, "good"}
    assert first["fields"]["generations-1"] == "b"
    assert "generations-2" not in first["fields"]
    assert set(second["fields"]) == {"id", "instruction", *(f"generations-{n}" for n in range(3))}
    (dataset,) = people.datasets
    required = {one["name"]: one["required"] for one in people.parts[f"{dataset['id']} questions"]}
    assert required["generations-0-rating"]
    assert not required["generations-1-rating"]


def test_a_dataset_of_others_is_not_written_to(people: ArgillaStandIn) -> None:
    pushed(PreferenceToArgilla(num_generations=1, **connection(people)), [])
    with pytest.raises(ParameterError, match=r"requires the fields \['generations-0'\]"):
        TextGenerationToArgilla(**connection(people)).load()


def test_a_wrong_key_and_a_refusal_are_told_without_the_key(people: ArgillaStandIn) -> None:
    with pytest.raises(ParameterError, match="can't use dataset 'answers'") as wrong:
        TextGenerationToArgilla(**connection(people, api_key="canary-of-another")).load()
    people.refuses_records = True
    with pytest.raises(StepError, match="refused 3 records") as refused:
        pushed(TextGenerationToArgilla(**connection(people)), TEXTS)
    assert "canary" not in f"{wrong.value} {refused.value}"


def test_without_a_server_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARGILLA_API_URL", raising=False)
    monkeypatch.delenv("ARGILLA_API_KEY", raising=False)
    with pytest.raises(ParameterError, match="ARGILLA_API_KEY"):
        TextGenerationToArgilla(dataset_name="answers").load()


def test_a_run_pushes_once_and_a_rerun_not_again(people: ArgillaStandIn, tmp_path: Path) -> None:
    def run() -> list[dict[str, Any]]:
        with Pipeline(name="to-people", cache_dir=tmp_path / "cache") as pipeline:
            LoadDataFromDicts(data=TEXTS[:1]) >> TextGenerationToArgilla(**connection(people))
        return list(pipeline.run()["default"]["train"])

    assert run() == TEXTS[:1]
    assert run() == TEXTS[:1]
    assert people.pushes == 1
    everything = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert KEY.encode() not in everything


# --- the labeller ---------------------------------------------------------------------------------


@pytest.fixture
def client(people: ArgillaStandIn) -> Any:
    return rg.Argilla(api_url=people.url, api_key=KEY)  # type: ignore[attr-defined]


def answered(question: Any, reply: str, **given: Any) -> Any:
    task = ArgillaLabeller(
        llm=FakeLLM(reply=reply), fields=[{"name": "text"}], question=question, **given
    )
    task.load()
    ((row,),) = task.process([{"record": {"fields": {"text": "a fine day"}}}])
    return row


def test_every_type_of_question_is_answered_with_what_the_sdk_takes(client: Any) -> None:
    questions = [
        (rg.LabelQuestion(name="q", labels=["good", "bad"], client=client), "label", "good"),
        (rg.MultiLabelQuestion(name="q", labels=["a", "b"], client=client), "labels", ["b"]),
        (rg.RatingQuestion(name="q", values=[1, 2, 3], client=client), "rating", 3),
        (rg.TextQuestion(name="q", client=client), "text", "sunny"),
    ]
    for question, key, value in questions:
        row = answered(question, json.dumps({key: value}))
        assert row["suggestion"]["value"] == value
        suggestion = rg.Suggestion(**row["suggestion"])
        assert (suggestion.question_name, suggestion.type) == ("q", "model")
        assert suggestion.agent == row["model_name"]


def test_an_answer_that_the_question_does_not_allow_fails_the_row(client: Any) -> None:
    label = rg.LabelQuestion(name="q", labels=["good", "bad"], client=client)
    assert answered(label, '{"label": "so-so"}')["suggestion"] is None
    rating = rg.RatingQuestion(name="q", values=[1, 2, 3], client=client)
    assert answered(rating, '{"rating": 9}')["suggestion"] is None
    assert answered(rating, "no idea")["suggestion"] is None


def test_records_of_the_sdk_serve_as_examples_and_as_input(client: Any) -> None:
    done = rg.Record(
        fields={"text": "a foul day"},
        responses=[rg.Response("q", "bad", user_id=UUID(int=98))],
    )
    open_one = rg.Record(fields={"text": "an odd day"})
    task = ArgillaLabeller(
        llm=FakeLLM(reply="{}"),
        fields=[rg.TextField(name="text", client=client)],
        question=rg.LabelQuestion(name="q", labels=["good", "bad"], client=client),
        example_records=[done, open_one],
        guidelines="Be kind.",
    )
    system, user = task.format_input({"record": open_one})
    assert system["role"] == "system"
    for part in ("a foul day", '{"label": "bad"}', "an odd day", "Be kind.", '["good", "bad"]'):
        assert part in user["content"]
    assert user["content"].count("an odd day") == 1  # nobody has answered it: no example


def test_a_row_brings_its_own_question(client: Any) -> None:
    task = ArgillaLabeller(llm=FakeLLM(reply='{"text": "yes"}'), fields=[{"name": "text"}])
    task.load()
    question = {"name": "own", "settings": {"type": "text"}}
    rows = [
        {"record": {"fields": {"text": "x"}}, "question": question},
        {"record": {"fields": {"text": "x"}}},
    ]
    (made,) = task.process(rows)
    assert made[0]["suggestion"]["question_name"] == "own"
    assert made[1]["suggestion"] is None

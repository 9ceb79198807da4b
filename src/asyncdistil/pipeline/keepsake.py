"""What is kept beside the rows of a run: its pipeline as a file, its log, what its steps saved.

```text
<store>/runs/<run id>/pipeline.yaml, pipeline.log
<store>/artifacts/<run id>/<step>/<name>/…    written by workers of that run
<store>/runs/<run id>/artifacts/…             those that the rows of a dataset hang on; made again
                                              whenever they are missing
```

Nothing of it is needed to run on: a disk that refuses it stops no run.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from asyncdistil.errors import DataError

if TYPE_CHECKING:
    from asyncdistil.distiset import Distiset
    from asyncdistil.pipeline.pipeline import Pipeline
    from asyncdistil.supervisor.stored_run import StoredRun

    _StreamHandler = logging.StreamHandler[TextIO]
else:
    _StreamHandler = logging.StreamHandler

PIPELINE_FILE = "pipeline.yaml"
LOG_FILE = "pipeline.log"
_log = logging.getLogger("asyncdistil.pipeline")
_LINE = "[%(asctime)s] %(levelname)-8s %(message)s"


def folder_of_run(root: Path, run: str) -> Path:
    """Where files about a run lie."""
    return root / "runs" / run


def keep_pipeline(root: Path, run: str, description: Mapping[str, Any]) -> None:
    """Write the pipeline of a run to its file, whole or not at all."""
    from asyncdistil.pipeline.serialise import as_text

    folder = folder_of_run(root, run)
    draft = folder / f".{PIPELINE_FILE}"
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        number = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(number, "w", encoding="utf-8") as file:
                file.write(as_text(description, "yaml"))
            draft.replace(folder / PIPELINE_FILE)
        except OSError:
            draft.unlink(missing_ok=True)
            raise


def kept_pipeline(run: StoredRun) -> Pipeline:
    """Build the pipeline of a stored run; loaders of given rows get the rows that are stored.

    Raises:
        DataError: It was not kept, because its steps have code of their own; or it names classes
            that are not asyncdistil's.
    """
    from asyncdistil.pipeline import Pipeline
    from asyncdistil.steps.load_dicts import LoadDataFromDicts

    root = run.store.root
    path = folder_of_run(root, run.begin.run) / PIPELINE_FILE
    if not path.is_file():
        raise DataError("some of them have code of their own, which is in no file")
    pipeline = Pipeline.from_yaml(path, cache_dir=root.parent.parent)
    for name, step in pipeline.steps.items():
        if isinstance(step, LoadDataFromDicts) and not step.data:
            step.data = list(run.rows(name))
    return pipeline


@contextmanager
def logged(root: Path, run: str) -> Iterator[Callable[[str], None]]:
    """Write what the library logs into the file of a run too, as far as `logging` lets it.

    Yields:
        What writes a line into the file alone, whatever the levels of loggers are.
    """
    library = logging.getLogger("asyncdistil")
    folder = folder_of_run(root, run)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        number = os.open(folder / LOG_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError:
        yield lambda _: None
        return
    with os.fdopen(number, "a", encoding="utf-8") as file:
        handler = _QuietHandler(file)
        handler.setFormatter(logging.Formatter(_LINE))
        # Each run has a thread of its own: others that go on beside it have logs of their own.
        mine = threading.get_ident()
        handler.addFilter(lambda record: record.thread == mine)
        library.addHandler(handler)
        try:
            with _UNHEARD.attached(library):
                yield handler.write
        finally:
            library.removeHandler(handler)
            with suppress(OSError):
                file.flush()


class _QuietHandler(_StreamHandler):
    """Writes records; a full disk does not fill the terminal with its complaints."""

    def write(self, text: str) -> None:
        """Write a line that no logger was asked about."""
        self.handle(
            logging.makeLogRecord({"msg": text, "levelno": logging.INFO, "levelname": "INFO"})
        )

    def handleError(self, record: logging.LogRecord) -> None:
        """Leave the record out."""


class _Unheard(logging.Handler):
    """Shows what `logging` itself would show, if the log of a run were not attached.

    Where nobody set up logging, `logging` prints warnings by its last resort; any handler at all
    ends that, and ours only write into files.
    """

    def __init__(self) -> None:
        super().__init__()
        self._runs = 0
        self._counting = threading.Lock()

    @contextmanager
    def attached(self, library: logging.Logger) -> Iterator[None]:
        """Listen as long as any run does: one for all of them, so that a record shows once."""
        with self._counting:
            self._runs += 1
            library.addHandler(self)
        try:
            yield
        finally:
            with self._counting:
                self._runs -= 1
                if not self._runs:
                    library.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a record that no handler of anybody else gets to the last resort."""
        last = logging.lastResort
        if last is None or record.levelno < last.level:
            return
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None:
            if not all(isinstance(each, _QuietHandler | _Unheard) for each in logger.handlers):
                return
            logger = logger.parent if logger.propagate else None
        last.handle(record)


_UNHEARD = _Unheard()


def furnish(distiset: Distiset, root: Path, name: str, run: str) -> None:
    """Tell a dataset where the files of its run are."""
    folder = folder_of_run(root, run)
    if (folder / PIPELINE_FILE).is_file():
        distiset.pipeline_path = folder / PIPELINE_FILE
    if (folder / LOG_FILE).is_file():
        distiset.log_filename_path = folder / LOG_FILE
    if (root / "artifacts").is_dir():
        distiset.artifacts_path = _gathered(root, name, run)


def _gathered(root: Path, name: str, run: str) -> Path | None:
    """The artifacts that the rows of a run hang on, those of replayed rows included."""
    target = folder_of_run(root, run) / "artifacts"
    if target.is_dir():
        return target
    from asyncdistil.supervisor.stored_run import StoredRun  # few datasets have artifacts

    stored = StoredRun.open(root.parent.parent, name, run)
    if stored is None:
        return None
    draft = target.with_name(".artifacts")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with stored:
            for step in stored.steps:
                for worked in stored.worked_on(step):
                    for saved in _saved(root / "artifacts" / worked / step):
                        # Of two of one name the newer counts, as in a single run.
                        place = draft / step / saved.name
                        shutil.rmtree(place, ignore_errors=True)
                        shutil.copytree(saved, place, copy_function=_linked)
        if not draft.is_dir():
            return None
        draft.rename(target)
    except OSError as error:
        _log.warning("artifacts of run %s can't be gathered (%s): see to the disk", run[:8], error)
        return None
    return target


def _saved(folder: Path) -> list[Path]:
    """Artifacts of a step; what begins with a dot was not finished."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)

"""`PushToHub`: rows on their way go to the Hugging Face Hub, too."""

import os
from typing import ClassVar

from pydantic import Field, SecretStr

from asyncdistil.mixins import RuntimeParameter
from asyncdistil.steps.global_step import GlobalStep
from asyncdistil.typing import StepInput, StepOutput


class PushToHub(GlobalStep):
    """Push all rows to a dataset repository on the Hugging Face Hub, and pass them on.

    It acts on the outside world: it waits until its input is durable, and a run that finds its push
    recorded does not push again. After a crash in the middle of a push, the same rows are pushed
    once more, which replaces the split.

    Inputs: any. Outputs: none besides.

    Attributes:
        repo_id: ``organisation/name``.
        split: The split.
        private: Whether a repository that is made for it is private.
        token: Hub token; without it ``HF_TOKEN``, else that of the local login.

    Example:
        >>> from asyncdistil.steps import PushToHub
        >>> PushToHub(repo_id="me/data").split
        'train'
    """

    version: ClassVar[int] = 1
    effects: ClassVar[bool] = True

    repo_id: RuntimeParameter[str] = Field(default=None, description="organisation/name.")
    split: RuntimeParameter[str] = Field(default="train", description="The split.")
    private: RuntimeParameter[bool] = Field(
        default=False, description="Whether a repository that is made for it is private."
    )
    token: RuntimeParameter[SecretStr] | None = Field(default=None, description="Hub token.")

    def process(self, inputs: StepInput) -> StepOutput:
        """Push the rows, then yield them, once."""
        from datasets import Dataset

        token = self.token.get_secret_value() if self.token else os.environ.get("HF_TOKEN")
        # Of rows with different columns `datasets` would take those of the first one.
        columns = list(dict.fromkeys(column for row in inputs for column in row))
        table = {column: [row.get(column) for row in inputs] for column in columns}
        Dataset.from_dict(table).push_to_hub(
            self.repo_id, split=self.split, private=self.private, token=token
        )
        yield inputs

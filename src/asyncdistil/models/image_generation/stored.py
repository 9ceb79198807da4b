"""Images that were paid for once: what of a reply is kept, and how it is read."""

from collections.abc import Sequence
from typing import Any

from asyncdistil.batch import Failure
from asyncdistil.models.memoized import Memoized
from asyncdistil.models.reply import Reply


class MemoizedImages(Memoized):
    """As `Memoized`, for replies whose body is an image as base64 text, or its URL."""

    def worth_keeping(self, reply: Reply) -> bool:
        """Whether the body is the image: what a service only links to is soon gone there."""
        return super().worth_keeping(reply) and not reply.body.startswith((b"http:", b"https:"))


def output_of(replies: Sequence[Reply]) -> dict[str, Any]:
    """One output with an image of each reply; ``None`` and the reason for those that failed."""
    failures = [
        Failure(reply.kind, reply.message, reply.attempts, reply.body.decode("utf-8", "replace"))
        if reply.outcome == "failed"
        else None
        for reply in replies
    ]
    images = [None if reply.outcome == "failed" else reply.body.decode() for reply in replies]
    return {"images": images, "failures": failures} if any(failures) else {"images": images}

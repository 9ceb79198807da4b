"""One child process that runs one replica of a step: ``python -P -m asyncdistil.worker``."""

"""The demonstration: a real dataset, a real crash, and a count of what was done twice.

`asyncdistil.demo.show.demonstrate` directs it. Nothing is imported here, because workers import
the steps of this room.
"""

"""The log room; its front door is written with the room."""

"""The steps room; its front door is written with the room."""

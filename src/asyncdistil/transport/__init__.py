"""The transport room; its front door is written with the room."""

"""The models room; its front door is written with the room."""

"""One session interface over every runtime; importing this imports no runtime."""

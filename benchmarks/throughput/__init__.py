"""How fast the main job is, beside what the client and a plain consumer need for the same records."""

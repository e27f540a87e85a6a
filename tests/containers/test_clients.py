"""The openai package through the published port: the end-to-end tests of that dialect, all of them, with a key."""
from test_openai import *  # noqa: F401,F403

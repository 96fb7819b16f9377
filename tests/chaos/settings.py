"""The project's settings, with an app that lets the programme break the device of a worker."""

from project.settings import *  # noqa: F403
from project.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.chaos.device.Device"]

"""All settings, and all reads of the environment. A malformed value stops the process and names its variable.

`deploy/README.md` explains each variable; a test compares the two.
"""

from project.settings.api import *
from project.settings.jobs import *
from project.settings.logs import *
from project.settings.mail import *
from project.settings.queues import *
from project.settings.redistillation import *
from project.settings.storage import *
from project.settings.web import *

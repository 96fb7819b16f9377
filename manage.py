#!/usr/bin/env python
"""Django's command line. `python manage.py help` lists the commands."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    try:
        execute_from_command_line(sys.argv)
    except (
        ImproperlyConfigured
    ) as error:  # a malformed variable: its name says more than a traceback
        sys.exit(f"CommandError: {error}")


if __name__ == "__main__":
    main()

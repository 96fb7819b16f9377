"""Errors of deriving a student from a teacher."""


class StudentRefused(Exception):
    """No student can be made of this teacher in this way."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{self.__doc__} {reason}")
        self.reason = reason

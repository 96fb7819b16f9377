"""An encode worker for tests of the web process: a thread that answers requests in Redis as configured."""

import threading
import time
from collections.abc import Mapping
from types import TracebackType

from generation.catalogue import match_requests
from generation.catalogue.match_requests import Answer, Question


class EncodeThread:
    """`with EncodeThread({"a text": answer}) as worker:`; a text without an answer is never answered."""

    def __init__(self, answers: Mapping[str, Answer] | None = None) -> None:
        self.answers = dict(answers or {})
        self.asked: list[Question] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.is_set():
            taken = match_requests.take()
            if taken is None:
                time.sleep(0.005)
                continue
            asked, question = taken
            self.asked.append(question)
            if question.text in self.answers:
                match_requests.answer(asked, question, self.answers[question.text])

    def __enter__(self) -> "EncodeThread":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=60)

"""The evaluation of a release against its teacher: metrics, intervals, verdicts and reports."""

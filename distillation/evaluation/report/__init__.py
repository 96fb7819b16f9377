"""Reports: templates, plots and contact sheets, and the report of an evaluation."""

"""The report of a run, and the page of a search: HTML from the files of evidence."""

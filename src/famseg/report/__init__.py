"""The report of a study: its tables, figures and tests as a page, Markdown and LaTeX."""

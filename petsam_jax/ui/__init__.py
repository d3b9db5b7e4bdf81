"""The page that `demo.py` serves: what it answers (studio, answer, results), how it is asked
(routes, guard) and how it looks (page, and the files in `browser`)."""

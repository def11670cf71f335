"""One module a lesson, one function an exercise; written so that reading one teaches something too."""

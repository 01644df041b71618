"""Does a reasoning LLM make a better embedding model than its base? The study's code.

`profile` says what to study; `texts`, `backbone`, `train`, `evaluate`, `activations`, `similarity`, `calibrate`
and `verdict` are its stages; `paths` keeps their artefacts; `run` executes the notebooks that tell the story.
"""

__version__ = "0.1.0"

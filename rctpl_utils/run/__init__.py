"""Running the notebooks, and looking after runs: schedule, manifest, doctor, check, trace.

Nothing of the method lives here: each notebook also runs alone.
"""

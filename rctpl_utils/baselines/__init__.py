"""The paper's eight baselines and the prompt learners beside it, behind one protocol (4.1.5)."""

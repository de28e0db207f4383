"""The embedded world: real reports, real anatomy, simulated pathology, official layouts."""

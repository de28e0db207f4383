"""How fast the expensive steps are on the machine at hand; no part of the package."""

"""Tables, figures and the ledger of claims, as files (paper 4; every table and figure).

Here lives what turns rows of results into `figures/`: nothing is scored or learned here.
"""

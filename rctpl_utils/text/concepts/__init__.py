"""The two extractors of triplets (paper 3.1.1) and their scores against human codes.

`spacy_extractor.SpacyExtractor` reads the text itself, `radgraph.RadGraphExtractor` reads what
RadGraph found, as the paper does.
"""

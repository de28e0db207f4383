"""What `rctpl_utils.run` is made of: options, freshness, execution, resources, provenance."""

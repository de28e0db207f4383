"""What `rctpl_utils.run` is made of, from its options to the record of what it did."""

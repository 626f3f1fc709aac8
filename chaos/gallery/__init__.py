"""The bug gallery: known bugs of real systems put back into Trivet, one at a time; each must be caught."""

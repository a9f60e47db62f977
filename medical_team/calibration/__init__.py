"""How often a judge errs: measured on MEDEC's gold pairs, kept in a file, shown with every run."""

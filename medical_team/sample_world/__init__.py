"""A small closed clinic in which whether a note is right follows from one table.

It stands in for MEDEC where that is not at hand: the sample data set and the embedded tiny model
are made from it. Everything in it is synthetic and is no medical advice.
"""

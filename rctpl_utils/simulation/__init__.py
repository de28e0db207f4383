"""The embedded world: simulated films in the official layouts, and weights trained on them.

Real reports, a real CT, real annotations; drawn films. Here live the drawing, the writers of each
data set's layout, and the training of the stand-ins that are released. No other room knows that a
film is simulated: all read the layouts as they read real data.
"""

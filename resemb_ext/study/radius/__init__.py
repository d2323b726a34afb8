"""Study radius: does a smaller radius inside domains make a model generalise?"""

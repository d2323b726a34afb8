"""Study bound: a generalisation bound in the radius."""

"""Study gain: forms of Res-embedding against the cheap alternatives at full strength, protocol 2."""

"""Study compare: Res-embedding against plain tables and controls, all tuned alike."""

"""Study delay: do users' interests stay put for a while, then jump?"""

"""Which attribution maps survive being tested?"""

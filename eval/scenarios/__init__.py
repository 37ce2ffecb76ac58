"""Scenarios of leaderboard route files, played on any CARLA server.

`Director` plays the <scenario> blocks of a route; `registry.SCENARIOS` names the types. Scenarios are short scripts
(`scenario.Scenario`) built from parts: `motion` (drivers, crossing walkers, flows), `lanes` (where things stand),
`stage` (spawning, reading, commanding).
"""

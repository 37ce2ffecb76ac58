"""Refinement of a policy after training: dreamt outcomes, judged by a critic that is honest about danger."""

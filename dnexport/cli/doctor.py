"""``dnexport doctor``"""

from dnexport.cli.options import Debug, Json


def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """List the runtimes, why each is or is not usable here, and the command that mends it."""
    from dnexport.cli.terminal import terminal

    with terminal(as_json=as_json, debug=debug) as view:
        from dnexport.deploy.doctor import diagnoses
        from dnexport.measure.environment import environment

        here, found = environment(), diagnoses()
        view.document({"environment": here.model_dump(mode="json"), "targets": {d.target: d.document() for d in found}})
        if not as_json:
            view.say(
                f"{here.cpu}, {here.cores} cores, {' '.join(here.cpu_features)}\nPython {here.python}, {here.system}\n"
            )
            rows = [[d.target, d.builds_text, d.runs_text, d.reason, d.remedy or "–"] for d in found]
            view.table(["Target", "Builds", "Runs", "Why", "What mends it"], rows)

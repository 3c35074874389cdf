from types import SimpleNamespace

from sana_wm.evaluation.card import measured, write_card


def test_every_number_of_an_evaluation_is_on_the_card():
    def mean(value):
        return {"mean": value, "low": value - 1, "high": value + 1}

    rate = {"rate": 0.25, "low": 0.1, "high": 0.4, "trials": 40}
    pose = {"agent_px": mean(11.11), "block_px": mean(22.22), "found": mean(1.0)}
    things = {key: {"words": key, "unit": "px", "moves": True} for key in ("agent_px", "block_px")}
    rows = dict.fromkeys(("world", "copy_last_frame", "decoder_floor"), {"1": pose})
    result = {
        "windows": 77,
        "fidelity": {"world": {"1": mean(30.5)}, "copy_last_frame": {"1": mean(20.5)}, "tokenizer": {"1": mean(33.0)}},
        "physics": {"things": things, "main": "block_px", "units": "of 512", "rows": rows},
        "action_shuffle": {"pixels": mean(1.75), "latents": mean(2.5)},
        "planning": {
            "rows": {
                name: {"block": rate, "block_and_agent": rate} for name in ("random", "cem_world", "cem_simulator")
            }
        },
        "speed": {"env_steps_per_second": {"pixels": {"1": 215.4}}, "state_bytes": {"10": 290576}},
        "skipped": {"trust": "this world carries no trust calibration"},
    }
    text = "\n".join(measured(result))
    for shown in ("77", "30.50 (29.50 to 31.50)", "20.50", "11.11", "22.22", "1.75", "2.50", "40",
                  "25.0 % (10.0 to 40.0)", "215", "290,576", "carries no trust",
                  "- of held-out goals reached by planning in it: 25.0 %"):  # fmt: skip
        assert shown in text, shown


def test_a_card_without_an_evaluation_has_recipe_and_cost():
    extra = {
        "data": {"name": "my-robot"},
        "recipe": {"flow": {"steps": 1}},
        "training": {"tokenizer": {"steps": 12, "minutes": 3.5}},
        "seed": 7,
        "machine": "trained on something",
    }
    text = write_card(SimpleNamespace(task="Do it.", extra=extra))
    for shown in ("# my-robot", "Do it.", "tokenizer: 12 steps, 3.5 minutes", "seed: 7", '"steps": 1'):
        assert shown in text, shown
    assert "Measured" not in text

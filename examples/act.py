"""Play episodes of an embedded task with a trained agent.

python train.py experiment=quickstart task=push_button
python examples/act.py outputs/quickstart-push_button-spatial-seed0 PushButton
"""

import sys

import gymnasium

from instructrl import Agent


def main(run: str, task: str, episodes: int = 10) -> None:
    agent = Agent.load(run)
    env = gymnasium.make(f"instructrl.sim.gym:instructrl/{task}-v0", cameras=agent.cameras, image_size=agent.image_size)
    successes = 0
    for seed in range(episodes):
        agent.reset()
        observation, info = env.reset(seed=seed)
        instruction, done = observation["instruction"], False
        while not done:
            action = agent.act(observation, instruction)
            observation, _, terminated, truncated, info = env.step(action)
            done = terminated or truncated
        successes += info["outcome"] == "success"
        print(f"{instruction}: {info['outcome'] or 'out of steps'}")
    env.close()
    print(f"{successes} of {episodes} episodes")


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:4]))

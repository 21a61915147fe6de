"""Where the GPUs of a replica's engines come from. Pure: settings in, deployment options out."""

from typing import Any

from server.config import ConfigError, ServeSettings

PARALLEL = ("tensor_parallel_size", "pipeline_parallel_size")


def world_sizes(settings: ServeSettings) -> dict[str, int]:
    """Each engine's number of workers."""
    sizes = {}
    for name, engine in settings.engine_table().items():
        merged = {**settings.engine_args, **engine.args}
        sizes[name] = 1
        for argument in PARALLEL:
            sizes[name] *= int(merged.get(argument, 1))
    return sizes


def placement(settings: ServeSettings, cpus: float = 1.0) -> dict[str, Any]:
    """Options for a deployment whose engine spans several GPUs; none for others.

    The replica has a bundle of its own without a GPU, and each worker one with a GPU, which vLLM's Ray
    executor finds in the replica's placement group. PACK keeps them on one node where there is room, and
    lets them span nodes where there is not.

    Args:
        cpus: CPU cores of the replica itself.

    Errors: ConfigError for several engines of which one spans GPUs by Ray: all would take the same bundles.
    """
    sizes = world_sizes(settings)
    by_ray = [name for name, size in sizes.items() if size > 1 and _executor(settings, name) == "ray"]
    if not by_ray:
        return {}
    if len(sizes) > 1:
        raise ConfigError(
            f"engine {by_ray[0]}: distributed_executor_backend 'ray' is for a server of one engine; with "
            "several, use 'mp' and give the replica all its GPUs by ray_actor_options.num_gpus"
        )
    bundles: list[dict[str, float]] = [{"CPU": cpus}]
    bundles += [{"CPU": 1.0, "GPU": 1.0} for _ in range(sizes[by_ray[0]])]
    return {"placement_group_bundles": bundles, "placement_group_strategy": "PACK"}


def _executor(settings: ServeSettings, engine: str) -> str | None:
    merged = {**settings.engine_args, **settings.engine_table()[engine].args}
    chosen = merged.get("distributed_executor_backend")
    return None if chosen is None else str(chosen)

"""Types of arrays with dtype and shape: those of jaxtyping, or of the array alone where jaxtyping is not installed.

The latter is the case in a simulator's own interpreter, which has numpy and the simulator's packages.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int32, Int64, UInt8, UInt32
else:
    try:
        from jaxtyping import Float, Float32, Int32, Int64, UInt8, UInt32
    except ModuleNotFoundError:

        class Float:
            """Stands for the type of the array: `Float[np.ndarray, "N S"]` is `np.ndarray`."""

            def __class_getitem__(cls, array_and_shape: tuple[Any, str]) -> Any:
                return array_and_shape[0]

        Float32 = Int32 = Int64 = UInt8 = UInt32 = Float

__all__ = ["Float", "Float32", "Int32", "Int64", "UInt8", "UInt32"]

"""Random fields observed through blur and noise, with the posterior in closed form.

Fields x of 2 channels on N x N periodic pixels are Gaussian, y is observed; for each mode k (unitary transform):

    (1) prior        N(0, S(k) C),  C = [[1, rho], [rho, 1]],  S ~ (1 + (|k| / k0)^2)^-3/2 with mean 1 over k
    (2) observation  y = B x + tau n,   B(k) = exp(-(|k| width)^2 / 2), n white noise of deviation 1
    (3) posterior    mean K y,   covariance P = (1 - K B) S C,   K = S B C (S B^2 C + tau^2)^-1
    (4) at a pixel   deviation s_c = (mean over k of P_cc(k))^1/2, whatever y is
    (5) scores       CRPS s_c / pi^1/2,  deviation of the truth from the mean s_c, on average over truths of the prior
    (6) denoiser     E[x | z, y] = m + alpha P (alpha^2 P + sigma^2)^-1 (z - alpha m),  m = K y,
                     z = alpha x + sigma eps

|k| is in cycles a pixel times N. C's eigenvectors (1, 1) and (1, -1) part the channels: all of it is scalar there.
"""

import dataclasses

import numpy as np

_TURN = np.array([[1.0, 1.0], [1.0, -1.0]]) / np.sqrt(2.0)  # to C's eigenvectors, and back


@dataclasses.dataclass(frozen=True)
class GaussianFields:
    """Arrays are float64 [..., N, N, 2]; those of modes are in the turned channels."""

    side: int = 8
    rho: float = 0.6
    k0: float = 1.5
    width: float = 0.25
    tau: float = 0.3

    @property
    def _k2(self) -> np.ndarray:
        k = self.side * np.fft.fftfreq(self.side)
        return (k[:, None] ** 2 + k**2)[..., None]

    @property
    def prior(self) -> np.ndarray:
        """S times C's eigenvalues."""
        power = (1.0 + self._k2 / self.k0**2) ** -1.5
        return power / power.mean() * np.array([1.0 + self.rho, 1.0 - self.rho])

    @property
    def blur(self) -> np.ndarray:
        return np.exp(-0.5 * self._k2 * self.width**2)

    @property
    def posterior(self) -> np.ndarray:
        """P."""
        return self.prior * self.tau**2 / (self.prior * self.blur**2 + self.tau**2)

    def deviation(self) -> float:
        """s_c, Eq. (4): of both channels the same."""
        return float(np.sqrt(self.posterior.mean()))

    def draw(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(x, y) [count, N, N, 2]."""
        shape = (count, self.side, self.side, 2)
        x = self.through(np.sqrt(self.prior), rng.normal(size=shape))
        return x, self.through(self.blur, x) + self.tau * rng.normal(size=shape)

    def mean(self, y: np.ndarray) -> np.ndarray:
        """E[x | y]."""
        return self.through(self.prior * self.blur / (self.prior * self.blur**2 + self.tau**2), y)

    def members(self, y: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draws of the posterior [n, count, N, N, 2]."""
        noise = rng.normal(size=(len(y), count, *y.shape[1:]))
        return self.mean(y)[:, None] + self.through(np.sqrt(self.posterior), noise)

    @staticmethod
    def through(gain: np.ndarray, x: np.ndarray) -> np.ndarray:
        """x with its modes, in the turned channels, times `gain`, which is even in k."""
        modes = np.fft.fft2(x @ _TURN, axes=(-3, -2))
        return np.fft.ifft2(gain * modes, axes=(-3, -2)).real @ _TURN

    def modes(self) -> tuple[np.ndarray, np.ndarray]:
        """(V [D, D], P [D]), D = 2 N^2: eigenvectors of the posterior's covariance as columns, and its eigenvalues; of
        pixels in the order of reshape(-1), in any order."""
        covariance = self.through(self.posterior, np.eye(2 * self.side**2).reshape(-1, self.side, self.side, 2))
        values, vectors = np.linalg.eigh(covariance.reshape(len(covariance), -1))
        return vectors, values

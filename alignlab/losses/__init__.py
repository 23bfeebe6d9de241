"""Every equation of the methods, as pure functions of tensors.

Layout, everywhere: (B, T) covers prompt and completion, right-padded; `mask` is 1 on completion tokens, EOS included,
and 0 on prompt and padding. The "last token" of a row is the last position where its mask is 1.

The direction of beta, said once: beta is the price of a nat of KL to the reference. At the optimum a larger beta stays
nearer to the reference, in PPO and in DPO alike, since both have the optimum pi_ref(y) exp(r(y) / beta) / Z.

The functions are in four files, and all of them are called as `losses.NAME`: `tokens`, what every method needs;
`preferences`, what is learned from judged answers; `variants`, DPO's relatives; `policy`, what a policy learns from its own samples.
"""

from alignlab.losses.policy import (
    adapt_beta,
    clipped_policy_loss,
    explained_variance,
    gae,
    last_token,
    normalise,
    reinforce_loss,
    rloo_advantages,
    shape_rewards,
    value_loss,
)
from alignlab.losses.preferences import dpo_loss, ipo_loss, log_ratio_difference, preference_loss
from alignlab.losses.tokens import (
    accuracy,
    before,
    entropy,
    exact_kl,
    kl_estimate,
    masked,
    masked_mean,
    picked_logps,
    same_shape,
    sequence_logps,
    sft_loss,
    spread,
    token_logps,
)
from alignlab.losses.variants import dpo_nll_loss, dpop_loss, kto_kl, kto_loss, length_normalised_dpo_loss, simpo_loss

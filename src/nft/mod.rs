//! (nft)

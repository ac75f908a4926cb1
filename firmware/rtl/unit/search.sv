// The search at the end of a token, bit for bit as `cptr_core::recall`: every remembered place but the newest 12 gets a
// distance, one a cycle, and the nearest stay in a chain.
module unit_search #(
  parameter int unsigned WORDS = 4,
  parameter int unsigned TOKENS = 1024,
  parameter int unsigned PLACES = 64,
  parameter int unsigned SLOT = $clog2(TOKENS),
  parameter int unsigned WORD = $clog2(WORDS)
) (
  input  logic                   clk,
  input  logic                   rst_n,
  // Slots in use, 64 to TOKENS; places that are kept, 1 to PLACES.
  input  logic [SLOT:0]          slots,
  input  logic [$clog2(PLACES):0] candidates,
  input  logic                   clear,
  input  logic                   start,
  output logic                   done,
  input  logic [32*WORDS-1:0]    now,
  output logic [SLOT-1:0]        slot,
  output logic [SLOT-1:0]        complete,
  output logic [31:0]            reach,
  output logic [$clog2(PLACES):0] found,
  output logic [PLACES*32-1:0]   nearest,
  // The window for software: signatures and distances, and the state between tokens.
  input  logic                   window_read,
  input  logic                   window_write,
  input  logic                   window_past,
  input  logic                   window_state,
  input  logic [SLOT+WORD-1:0]   window_address,
  input  logic [31:0]            window_data,
  output logic [31:0]            window_word
);
  localparam int unsigned NEWEST = 12;
  localparam int unsigned BITS = 32 * WORDS;
  localparam int unsigned FIRST = (WORDS < 4) ? 1 : WORDS / 4;
  localparam int unsigned TIMES = $clog2(WORDS / FIRST);
  localparam int unsigned COUNT = $clog2(BITS + 1);
  // Of a place of which nothing is known, half of the bits always differ.
  localparam logic [63:0] UNKNOWN = (64'(BITS) * (64'd32 << 22)) / 64'd19;

  typedef enum logic [2:0] {IDLE, CLEAR, STORE, AGES, DRAIN, LAST} state_t;
  state_t state;
  logic [SLOT:0] age, cleared;
  logic [7:0] wait_steps;

  logic [BITS-1:0] signature, changed;
  logic [31:0] past;
  logic [SLOT+1:0] wrapped;

  // Where to look; what is read; xor, from the word whose turn it is; ones of half words; of the part looked at and of
  // all; both distances; the one that counts.
  logic [7:0] valid;
  logic [SLOT-1:0] back_1, place_1, place_8;
  logic [SLOT:0] age_8;
  logic [BITS-1:0] differ_3, turned_4;
  logic [2*WORDS*5-1:0] counts_5;
  logic [COUNT-1:0] all_5, all_6, few_5, few_6;
  logic [34:0] past_3;
  logic [31:0] old_4, old_5, old_6, look_7, whole_7, past_8;
  logic [32:0] reach_further;
  logic [31:0] beyond;
  assign reach_further = {1'b0, reach} + (33'(BITS) << 17);

  logic [WORD-1:0] first_word;
  assign first_word = WORD'(32'(slot) * FIRST);
  always_comb begin
    all_5 = '0;
    for (int i = 0; i < 2 * WORDS; i++) all_5 = all_5 + COUNT'(counts_5[5*i+:5]);
    few_5 = '0;
    for (int i = 0; i < 2 * FIRST; i++) few_5 = few_5 + COUNT'(counts_5[5*i+:5]);
  end
  function automatic logic [4:0] ones(input logic [15:0] bits);
    ones = '0;
    for (int i = 0; i < 16; i++) ones = ones + 5'(bits[i]);
  endfunction
  for (genvar i = 0; i < 2 * WORDS; i++) begin : halves
    always_ff @(posedge clk) counts_5[5*i+:5] <= ones(turned_4[16*i+:16]);
  end
  wire [40:0] past_45 = 41'(past_3) + (41'(past_3) << 3);
  always_ff @(posedge clk) begin
    beyond <= reach_further[32] ? 32'hffff_ffff : reach_further[31:0];
    wrapped <= {2'd0, slot} + {1'b0, slots};
    back_1 <= {1'b0, slot} >= age ? SLOT'({1'b0, slot} - age) : SLOT'(wrapped - {1'b0, age});
    place_1 <= SLOT'(slots - (SLOT + 1)'(1) - age);
    differ_3 <= signature ^ now;
    past_3 <= {3'd0, past} + {1'b0, past, 2'd0};
    turned_4 <= BITS'({differ_3, differ_3} >> {first_word, 5'd0});
    old_4 <= past_45[37:6];
    {all_6, few_6, old_6, old_5} <= {all_5, few_5, old_5, old_4};
    look_7 <= (32'(few_6) << (22 + TIMES)) + old_6;
    whole_7 <= (32'(all_6) << 22) + old_6;
    past_8 <= look_7 <= beyond ? whole_7 : look_7;
  end
  unit_delay #(.WIDTH(SLOT), .CYCLES(7)) place_line (.clk, .in(place_1), .out(place_8));
  unit_delay #(.WIDTH(SLOT + 1), .CYCLES(8)) age_line (.clk, .in(age), .out(age_8));

  unit_ram #(.WIDTH(BITS), .DEPTH(TOKENS)) signatures (
    .clk, .read(valid[0] | window_read),
    .read_address(window_read ? window_address[SLOT+WORD-1:WORD] : back_1),
    .read_data(signature), .write(state == STORE | (window_write & ~window_past & ~window_state)),
    .write_address(state == STORE ? slot : window_address[SLOT+WORD-1:WORD]),
    .write_data(state == STORE ? now : changed)
  );
  unit_ram #(.WIDTH(32), .DEPTH(TOKENS)) distances (
    .clk, .read(valid[0] | window_read), .read_address(window_read ? window_address[SLOT-1:0] : place_1),
    .read_data(past), .write(valid[7] | state == CLEAR | (window_write & window_past)),
    .write_address(state == CLEAR ? cleared[SLOT-1:0] : window_write ? window_address[SLOT-1:0] : place_8),
    .write_data(state == CLEAR ? UNKNOWN[31:0] : window_write ? window_data : past_8)
  );
  logic [31:0] signature_word;
  unit_pick #(.N(WORDS), .WIDTH(32)) pick_word (
    .entries(signature), .index(window_address[WORD-1:0]), .entry(signature_word)
  );
  assign window_word = window_past ? past : signature_word;
  for (genvar i = 0; i < WORDS; i++) begin : window_words
    assign changed[32*i+:32] = window_address[WORD-1:0] == WORD'(i) ? window_data : signature[32*i+:32];
  end

  // The nearest: a distance in 64ths of a bit and the age less one; the smallest keys.
  logic [PLACES-1:0] full;
  logic [PLACES*32-1:0] keys;
  wire [15:0] age_less_one = 16'(age_8) - 16'd1;
  unit_rank_chain #(.K(PLACES), .KEY(32), .DATA(1)) chain (
    .clk, .rst_n, .clear(state == CLEAR | state == STORE), .enabled({PLACES{1'b1}}),
    .in_valid(valid[7]), .in_key(~{past_8[31:16], age_less_one}), .in_data(1'b0),
    .out_valid(), .out_key(), .out_data(), .full, .keys, .data()
  );
  assign nearest = ~keys;
  logic [$clog2(PLACES)-1:0] last_place;
  always_ff @(posedge clk) last_place <= ($clog2(PLACES))'(candidates - 1'b1);
  logic [31:0] last_key, picked_key;
  logic last_full, picked_full;
  always_ff @(posedge clk) {last_full, last_key} <= {picked_full, picked_key};
  logic [PLACES*33-1:0] marked;
  for (genvar i = 0; i < PLACES; i++) begin : marks
    assign marked[33*i+:33] = {full[i], nearest[32*i+:32]};
  end
  unit_pick #(.N(PLACES), .WIDTH(33)) pick_last (
    .entries(marked), .index(last_place), .entry({picked_full, picked_key})
  );

  logic [SLOT-1:0] last_slot, next_slot;
  logic [$clog2(PLACES):0] searched;
  always_ff @(posedge clk) begin
    last_slot <= SLOT'(slots - 1'b1);
    next_slot <= slot == last_slot ? '0 : slot + 1'b1;
    searched <= 32'(complete) > NEWEST ? ($clog2(PLACES) + 1)'(32'(complete) - NEWEST) : '0;
    if (state == CLEAR) begin
      {slot, complete, found} <= '0;
      reach <= 32'hffff_ffff;
    end else if (window_state && window_write) begin
      case (window_address[1:0])
        2'd0: slot <= window_data[SLOT-1:0];
        2'd1: complete <= window_data[SLOT-1:0];
        2'd2: reach <= window_data;
        default: ;
      endcase
    end else if (state == LAST) begin
      reach <= last_full ? {last_key[31:16], 16'd0} : 32'hffff_ffff;
      found <= last_full ? candidates : searched;
      slot <= next_slot;
      if (complete < last_slot) complete <= complete + 1'b1;
    end
  end
  always_ff @(posedge clk or negedge rst_n) begin
    if (!rst_n) begin
      state <= IDLE;
      {age, cleared, wait_steps, valid} <= '0;
      done <= 1'b0;
    end else begin
      done <= 1'b0;
      valid <= {valid[6:0], state == AGES};
      case (state)
        IDLE: begin
          cleared <= '0;
          if (clear) state <= CLEAR;
          else if (start) state <= STORE;
        end
        CLEAR: begin
          cleared <= cleared + 1'b1;
          if (cleared == (SLOT + 1)'(TOKENS - 1)) begin
            state <= IDLE;
            done <= 1'b1;
          end
        end
        STORE: begin
          age <= {1'b0, complete};
          wait_steps <= '0;
          state <= 32'(complete) > NEWEST ? AGES : LAST;
        end
        AGES: begin
          age <= age - 1'b1;
          if (age == (SLOT + 1)'(NEWEST + 1)) state <= DRAIN;
        end
        DRAIN: begin
          wait_steps <= wait_steps + 8'd1;
          if (wait_steps == 8'(PLACES + 13)) state <= LAST;
        end
        default: begin
          state <= IDLE;
          done <= 1'b1;
        end
      endcase
    end
  end
endmodule
